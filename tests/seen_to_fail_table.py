"""The functions that `seen_to_fail.py` breaks: name, number of mutants that must be seen (or all), tests that must fail.

Tests are files and folders below tests/; name the likeliest first. A constant of a module has a line like a function.
"""

FUNCTIONS = """
medrecon.blur.BlurSpectrum.energy                           3  test_blur.py
medrecon.blur.BlurSpectrum.images                           3  test_blur.py
medrecon.blur.SmoothField.__call__                          3  test_blur.py
medrecon.bundle._state                                     3  cli/test_arguments.py
medrecon.bundle._trained_network                           3  test_prior_file.py
medrecon.bundle._weights_file                              3  cli/test_arguments.py
medrecon.bundle.chosen_solver                              3  problems/test_denoisers.py
medrecon.bundle.current_bundle_or                          3  test_zoo.py
medrecon.bundle.read_prior                                 3  test_prior_file.py
medrecon.bundle.save_weights                               3  test_prior_file.py
medrecon.bundle_checks._missing                            3  test_zoo.py
medrecon.bundle_checks._network                            3  test_zoo.py
medrecon.calibrate._held_out                               3  test_calibrate.py
medrecon.calibrate.check_by_subjects                       3  test_calibrate.py
medrecon.calibrate.head_mask                               3  test_calibrate.py
medrecon.calibration_file._factors                         3  test_calibration_file.py
medrecon.calibration_file.settings_of                      3  test_calibration_file.py
medrecon.cli.cases.CaseReport.entry                        3  cli/test_several.py
medrecon.cli.config.expand_config                          3  cli/test_log.py
medrecon.cli.options.set_threads                           3  cli/test_several.py
medrecon.cli.reconstruct._request_digest                   3  cli/test_several.py
medrecon.cli.reconstruct.clear_caches                      3  formats/test_dicom.py
medrecon.cli.streams._RobustStream.write                   3  cli/test_arguments.py
medrecon.cli.streams.robust_streams                        3  cli/test_arguments.py
medrecon.conformal.mean_interval                           3  test_conformal.py
medrecon.conformal.normalised_errors                       3  test_conformal.py
medrecon.conformal.random_disc                             3  test_conformal.py
medrecon.conformal.risk_control                            3  test_conformal.py
medrecon.conformal.split_conformal                         3  test_conformal.py
medrecon.coverage.central_coverage                         3  test_coverage.py
medrecon.coverage.holm                                     3  solvers/test_sbc.py
medrecon.coverage.rank_frequencies                         3  test_coverage.py
medrecon.coverage.spread_over_error                        3  test_coverage.py
medrecon.coverage.truth_ranks                              3  solvers/test_sbc.py
medrecon.coverage.uniformity                               3  solvers/test_sbc.py
medrecon.data.adaptive.adaptive_image                      3  data/test_adaptive.py
medrecon.data.adaptive.iterative_image                     3  data/test_adaptive.py
medrecon.data.arguments.as_number                          3  cli/test_arguments.py
medrecon.data.coils._mixtures                              3  data/test_coils.py
medrecon.data.eigen._powered                               3  data/test_eigen.py
medrecon.data.eigen.largest_eigenpairs                     3  data/test_eigen.py
medrecon.data.errors.os_error_advice                       3  cli/test_advice.py
medrecon.data.espirit._MAX_FOLDED                          3  data/test_folding.py
medrecon.data.espirit._MIN_COVERED                         3  problems/test_maps.py
medrecon.data.espirit._MIN_EXPLAINED                       3  problems/test_maps.py
medrecon.data.espirit._fourier_matrix                      3  data/test_espirit.py data
medrecon.data.espirit._projector                           3  data/test_espirit.py data
medrecon.data.espirit.choose_sets                          3  data/test_folding.py
medrecon.data.espirit.espirit_maps                         3  problems/test_maps.py
medrecon.data.espirit.sigpy_maps                           3  data/test_folding.py
medrecon.data.espirit.trusted_noise                        3  problems/test_maps.py
medrecon.data.files._FileSet.new                           3  data/test_files.py
medrecon.data.files._FileSet.remove_hidden                 3  data/test_files.py data
medrecon.data.files._finish.possible                       3  data/test_files.py
medrecon.data.files._is_published                          3  data/test_files.py
medrecon.data.files._lock                                  3  prep/test_runner.py
medrecon.data.files._move_into_place                       3  data/test_files.py
medrecon.data.files._problem                               3  data/test_files.py
medrecon.data.files._publish                               3  data/test_files.py
medrecon.data.files._publish_all                           3  data/test_files.py data
medrecon.data.files._recover_one                           3  data/test_files.py
medrecon.data.files._remove_leftovers                      3  data/test_files.py
medrecon.data.files.sidecar_mismatch                       3  data/test_files.py
medrecon.data.geometry.lps_to_ras                          3  formats/test_ismrmrd.py formats/test_dicom.py
medrecon.data.masks._within                                3  transforms/test_simulate.py
medrecon.data.masks.centred                                3  data/test_masks.py data
medrecon.data.masks.sigpy_mri                              3  cli/test_arguments.py
medrecon.data.noise.noise_of_images                        3  data/test_noise.py
medrecon.data.noise.noise_scan_std                         3  data/test_noise.py
medrecon.data.noise.outermost_std                          3  data/test_noise.py
medrecon.data.parts.KeptParts.load                         2  data/test_parts.py
medrecon.data.passes.apply_mask                            3  formats/test_mapped.py
medrecon.data.passes.largest_part                          3  formats/test_mapped.py
medrecon.data.sampling._mask_of_slice                      3  problems/test_stack.py
medrecon.data.sampling._rounded_to_zero                    3  cli/test_advice.py
medrecon.data.sampling.check_stored_mask                   3  data/test_sampling.py
medrecon.data.sampling.masks_of_slices                     3  problems/test_stack.py
medrecon.data.sampling.one_sided_warnings                  3  cli/test_advice.py
medrecon.data.sampling.sampling_difference                 3  data/test_sampling.py
medrecon.data.shots.check_shots                            3  data/test_shots.py
medrecon.data.trajectories.echo_planar                     3  data/test_trajectories.py
medrecon.data.trajectories.radial                          3  data/test_trajectories.py
medrecon.data.trajectories.spiral                          3  data/test_trajectories.py
medrecon.data.yaml_files._PlainLoader.compose_node         3  test_prior_file.py
medrecon.data.yaml_files._PlainLoader.construct_mapping    3  test_prior_file.py
medrecon.engines.DenoisingPrepareBatch.__call__            3  training/test_training.py
medrecon.engines.NoisyPrepareBatch.__call__                3  training/test_training.py
medrecon.formats.acquisitions._correct_epi                 3  formats/test_epi.py
medrecon.formats.acquisitions._geometry                    3  formats/test_ismrmrd.py
medrecon.formats.acquisitions._noise                       3  formats/test_ismrmrd.py
medrecon.formats.acquisitions._on_grid                     3  formats/test_ismrmrd.py
medrecon.formats.acquisitions._shots                       3  formats/test_noncartesian.py
medrecon.formats.acquisitions._signs                       3  formats/test_siemens.py
medrecon.formats.acquisitions.along_trajectory             3  formats/test_noncartesian.py formats/test_twix.py
medrecon.formats.acquisitions.matching_calibration         3  formats/test_ismrmrd.py formats/test_registry.py
medrecon.formats.acquisitions.saturation_warnings          3  cli/test_advice.py
medrecon.formats.acquisitions.scan_from_acquisitions       3  formats/test_twix.py
medrecon.formats.arrays._combine_parts                     3  formats/test_hostile.py
medrecon.formats.attributes.permitted                      3  formats/test_hostile.py
medrecon.formats.bart._trajectory                          3  formats/test_noncartesian.py
medrecon.formats.bart.read_array                           3  formats/test_hostile.py
medrecon.formats.calgary_campinas._centred                 3  prep/test_runner.py
medrecon.formats.cartesian._without_padding                3  data/test_sampling.py
medrecon.formats.cartesian._without_rounding               3  cli/test_advice.py
medrecon.formats.centre.peak_offset                        3  formats/test_header.py
medrecon.formats.contents.bart_advice                      3  cli/test_advice.py
medrecon.formats.data_exchange._line_integrals             3  formats/test_data_exchange.py
medrecon.formats.dicom.decoder._end_after                  3  formats/test_hostile.py
medrecon.formats.dicom.decoder.check_codestreams           3  formats/test_hostile.py
medrecon.formats.dicom.series._CLASSIC                     3  writers/test_like.py
medrecon.formats.dicom.series._evenly_spaced               3  formats/test_dicom.py formats/test_dicom_volumes.py
medrecon.formats.dicom.series._frames                      3  formats/test_hostile.py
medrecon.formats.dicom.series._group_attributes            3  formats/test_dicom.py
medrecon.formats.dicom.series._list_frames                 3  formats/test_dicom_volumes.py
medrecon.formats.dicom.series._mosaic                      3  formats/test_dicom.py
medrecon.formats.dicom.series._read                        3  cli/test_advice.py formats/test_dicom_volumes.py formats/test_registry.py writers/test_like.py
medrecon.formats.dicom.series._scale                       3  formats/test_dicom.py
medrecon.formats.dicom.series._select_frames               3  formats/test_hostile.py
medrecon.formats.dicom.series._sort_frames                 3  formats/test_dicom.py formats/test_dicom_volumes.py
medrecon.formats.dicom.series._values                      3  formats/test_dicom_volumes.py
medrecon.formats.dicom.stacks.ADVISED                      3  writers/test_like.py
medrecon.formats.dicom.stacks._ranks                       3  formats/test_dicom_volumes.py
medrecon.formats.dicom.stacks._volumes                     3  formats/test_dicom_volumes.py
medrecon.formats.dicom.stacks.axes                         3  formats/test_dicom_volumes.py
medrecon.formats.epi._ramp_area                            3  formats/test_epi.py
medrecon.formats.epi._resample                             3  formats/test_epi.py
medrecon.formats.epi.correct_epi                           3  formats/test_epi.py
medrecon.formats.epi.direction_phase                       3  formats/test_epi.py
medrecon.formats.epi.off_centre                            3  formats/test_epi.py
medrecon.formats.fastmri.save_fastmri                      3  formats/test_header.py
medrecon.formats.fastmri.sniff                             3  formats/test_registry.py
medrecon.formats.frames.frames_of_acquisitions             3  formats/test_registry.py
medrecon.formats.freesurfer._parts                         3  formats/test_freesurfer.py
medrecon.formats.hdf5._Heap.get                            3  formats/test_hostile.py
medrecon.formats.hdf5._check_links                         3  formats/test_hostile.py
medrecon.formats.hdf5._contiguous_offset                   3  formats/test_mapped.py
medrecon.formats.hdf5._messages                            3  formats/test_hostile.py
medrecon.formats.hdf5.check_dataset                        3  formats/test_hostile.py
medrecon.formats.header.crop_readout                       3  formats/test_header.py
medrecon.formats.header.fit_header                         3  formats/test_header.py
medrecon.formats.header.voxel_size                         3  formats/test_header.py
medrecon.formats.ismrmrd._centres                          3  formats/test_header.py
medrecon.formats.ismrmrd._encoded                          3  formats/test_header.py
medrecon.formats.ismrmrd._is_stripped                      3  formats/test_header.py
medrecon.formats.ismrmrd._noise_from_other_group           3  formats/test_header.py
medrecon.formats.ismrmrd._select_group                     3  formats/test_header.py
medrecon.formats.ismrmrd._siemens                          3  formats/test_siemens.py
medrecon.formats.kinds._load                               3  formats/test_mapped.py
medrecon.formats.kinds.load_like                           3  writers/test_like.py
medrecon.formats.limits.FREE_BYTES                         3  formats/test_hostile.py
medrecon.formats.limits.check_claim                        3  formats/test_hostile.py
medrecon.formats.mapped.mapped                             3  formats/test_mapped.py
medrecon.formats.nifti._geometry                           3  formats/test_dicom_volumes.py formats/test_nifti.py
medrecon.formats.nifti._open                               3  formats/test_hostile.py
medrecon.formats.nifti._radians                            3  formats/test_nifti.py
medrecon.formats.nifti._volume                             3  formats/test_dicom_volumes.py
medrecon.formats.numpy_files.read                          3  cli/test_advice.py
medrecon.formats.numpy_files.sniff                         3  formats/test_registry.py
medrecon.formats.probe.never_raises.quiet                  3  formats/test_registry.py
medrecon.formats.scrub._remove_unlisted                    3  formats/test_hostile.py
medrecon.formats.scrub.parse_header                        3  formats/test_hostile.py
medrecon.formats.sinograms.checked_sinogram                3  formats/test_registry.py
medrecon.formats.twix._acquisitions                        3  formats/test_siemens.py formats/test_twix.py
medrecon.formats.twix._readout                             3  formats/test_epi.py
medrecon.handlers.KeepBest.__call__                        3  training/test_training.py
medrecon.handlers.KeepBest.restore                         3  training/test_training.py
medrecon.handlers._load_checkpoint                         3  training/test_training.py
medrecon.handlers._load_checkpoint.position                3  training/test_training.py
medrecon.joint_maps.JointMaps.inverted                     3  test_joint_maps.py
medrecon.joint_maps.JointMaps.updated                      3  test_joint_maps.py
medrecon.joint_maps.normalised_maps                        3  test_joint_maps.py
medrecon.likelihood.Gaussian.fit                           3  operators/test_precision.py
medrecon.likelihood.Poisson._rates                         3  solvers/test_counts.py
medrecon.likelihood.Rician._expected                       3  test_likelihood.py
medrecon.likelihood.Rician.prox                            3  test_likelihood.py solvers
medrecon.likelihood.Transmission._rates                    3  test_likelihood.py
medrecon.metrics._RangeMetric.unit                         3  test_zoo.py
medrecon.metrics.hounsfield_scores                         3  cli/test_evaluate.py
medrecon.monai_bundle.Config.bind                          3  cli/test_arguments.py
medrecon.monai_bundle._parts                               3  cli/test_arguments.py
medrecon.networks.ResidualUNet.forward                     3  test_networks.py
medrecon.networks._OnMetaDevice.__torch_function__         3  test_prior_file.py
medrecon.networks._SelfAttention.forward                   3  test_networks.py
medrecon.networks._limited_size.register                   3  test_prior_file.py
medrecon.networks.check_images                             3  test_prior_file.py
medrecon.noise.Noise.__call__                              3  test_noise.py solvers
medrecon.noise.Noise._slices_of                            3  test_noise.py
medrecon.noise.Noise._volume                               3  test_noise.py
medrecon.noise.Noise.uniform                               3  solvers/test_smc.py test_noise.py
medrecon.noise.slice_weights                               3  test_noise.py
medrecon.operators.base.Composed.__init__                  3  solvers
medrecon.operators.base.Composed.normal                    3  operators
medrecon.operators.base.Operator.__deepcopy__              3  operators/test_operators.py operators
medrecon.operators.base.Operator._apply.convert            3  operators/test_operators.py operators
medrecon.operators.base._Implicit.backward                 3  operators/test_motion.py operators
medrecon.operators.blocks.Slices.pinv                      3  operators/test_blocks.py
medrecon.operators.ct.ConeBeam._entries                    3  operators/test_ct.py operators
medrecon.operators.ct.FanBeam.__init__                     3  operators/test_ct.py operators
medrecon.operators.density.pipe_menon_dcf                  3  operators/test_nufft.py operators
medrecon.operators.fbp.ramp_filter                         3  operators/test_ct.py operators
medrecon.operators.fbp.view_arcs                           3  operators/test_ct.py operators
medrecon.operators.fourier.centring                        3  operators/test_fourier.py operators
medrecon.operators.fourier.resampling_matrix               3  training/test_augment.py
medrecon.operators.image.Blur.__init__                     3  operators/test_image.py operators
medrecon.operators.image.FiniteDifferences.adjoint         3  operators/test_image.py solvers
medrecon.operators.image.downsample_kspace                 3  operators/test_image.py operators
medrecon.operators.linalg.cg                               3  operators/test_linalg.py operators
medrecon.operators.linalg.dot                              3  operators/test_linalg.py operators
medrecon.operators.motion._shears                          3  operators/test_motion.py problems/test_motion.py
medrecon.operators.motion.rigid_field                      3  operators/test_motion.py operators
medrecon.operators.mri._Sampling._masked_norm_squared      3  operators/test_operators.py operators
medrecon.operators.mri._combined                           3  operators/test_mri.py operators
medrecon.operators.nlinv.JointMRI.step                     3  operators/test_nlinv.py test_joint_maps.py
medrecon.operators.nlinv.SmoothMaps.__init__               3  operators/test_nlinv.py
medrecon.operators.nlinv.invert                            3  operators/test_nlinv.py solvers/test_nlinv.py
medrecon.operators.nlinv.low_resolution_phase              3  operators/test_nlinv.py solvers/test_nlinv.py test_joint_maps.py
medrecon.operators.nonlinear.Magnitude.vjp                 3  operators/test_nonlinear.py operators
medrecon.operators.nufft.NUFFT.__init__                    3  problems/test_noncartesian.py
medrecon.operators.nufft_backends.SparseTransform.__init__   3  operators/test_nufft.py operators
medrecon.operators.projector.FlatRays._entries             3  operators
medrecon.operators.projector.Projector._back_project       3  operators/test_ct.py operators
medrecon.operators.projector._shared_rays                  3  operators/test_ct.py operators
medrecon.operators.spectral.Dense.v                        3  operators/test_spectral.py operators
medrecon.operators.spectral.Spectral.pinv                  3  operators/test_precision.py operators
medrecon.operators.spectral.Spectral.solve                 3  operators/test_spectral.py operators
medrecon.operators.spectral._svd                           3  operators/test_spectral.py operators
medrecon.posterior.PriorSpec.suited_to                     3  test_zoo.py
medrecon.posterior._Run.draw                               3  problems/test_images.py
medrecon.posterior._Weighted.of                            3  test_posterior.py
medrecon.posterior._block                                  3  test_quality.py test_posterior.py
medrecon.posterior._check_coils                            3  problems/test_ambient.py
medrecon.posterior._check_noise                            3  problems/test_denoisers.py
medrecon.posterior._check_prior                            3  test_zoo.py
medrecon.posterior._mean_and_samples                       3  test_posterior.py
medrecon.posterior._of_coils                               3  problems/test_ambient.py
medrecon.posterior._particles                              3  test_posterior.py
medrecon.posterior._seeds                                  3  problems/test_cartesian.py
medrecon.posterior._unrelated_warnings                      3  problems/test_thick.py
medrecon.posterior.batch_size                              3  test_zoo.py
medrecon.prep.cases.Case.public_inputs                     3  prep/test_jobs.py
medrecon.prep.cases._add_file                              3  prep/test_jobs.py
medrecon.prep.cases._problem                               3  prep/test_jobs.py
medrecon.prep.cases.dicom_series                           3  prep/test_runner.py
medrecon.prep.journal.Journal.reason_to_skip               3  prep/test_jobs.py
medrecon.prep.pseudonyms.Key._loaded                       3  prep/test_jobs.py
medrecon.prep.pseudonyms.Key._of                           3  prep/test_jobs.py
medrecon.prep.pseudonyms._private                          3  prep/test_jobs.py
medrecon.prep.pseudonyms.without_names                     3  prep/test_runner.py
medrecon.prep.recipes.parser_of                            3  cli/test_arguments.py
medrecon.prep.runner._Run._to_do                           3  prep/test_jobs.py prep/test_runner.py
medrecon.prep.runner.split_of                              3  prep/test_runner.py
medrecon.prep.shards.LoadPreparedd.__call__                3  prep/test_shards.py
medrecon.prep.shards._array                                3  prep/test_shards.py
medrecon.prep.shards._files                                3  prep/test_shards.py
medrecon.prep.shards._is_content                           3  prep/test_shards.py
medrecon.prep.shards._open_shard                           3  prep/test_shards.py
medrecon.prep.shards._row                                  3  prep/test_shards.py
medrecon.prep.shards.group_of                              3  prep/test_jobs.py prep/test_runner.py
medrecon.prep.shards.read_rows                             3  prep/test_runner.py
medrecon.prep.training_data._add_density                   3  prep/test_training_data.py
medrecon.prep.training_data._calibration_lines             3  prep/test_training_data.py
medrecon.prep.training_data._check_prior                   3  prep/test_training_data.py
medrecon.prep.training_data._entries                       3  prep/test_training_data.py
medrecon.prep.training_data._noisy_rows                    3  prep/test_training_data.py
medrecon.prep.training_data._scan_rows                     3  prep/test_training_data.py
medrecon.prep.worker._arrays                               3  prep/test_jobs.py
medrecon.prep.worker.error_text                            3  prep/test_jobs.py
medrecon.prep.worker.write_error                           3  prep/test_jobs.py
medrecon.prior_file._check_settings                        3  test_prior_file.py
medrecon.prior_file._noise                                 3  test_prior_file.py
medrecon.prior_file._posterior                             3  test_prior_file.py
medrecon.prior_file.replace_values                         3  test_prior_file.py
medrecon.priors.base.as_levels                             3  test_zoo.py
medrecon.priors.combine.channelwise.each                   3  priors/test_combine.py priors
medrecon.priors.combine.equivariant.equivariant_prior      3  priors/test_combine.py priors
medrecon.priors.combine.equivariant.one                    3  priors/test_combine.py priors
medrecon.priors.combine.guided.prior                       3  priors/test_combine.py priors
medrecon.priors.combine.multiscale.scaled                  3  priors/test_combine.py priors
medrecon.priors.combine.perpendicular                      3  priors/test_combine.py
medrecon.priors.combine.slicewise.each                     3  priors/test_combine.py
medrecon.priors.denoiser.dimmed                            3  priors/test_denoiser.py
medrecon.priors.mixture.MixturePrior.log_prob              3  priors/test_mixture.py
medrecon.priors.nets.EpsNet.__call__                       3  priors/test_nets.py priors
medrecon.priors.nets.MaskedNet.__call__                    3  training/test_undersampled.py
medrecon.priors.nets.denoise_masked                        3  training/test_undersampled.py
medrecon.priors.nets.precondition                          3  priors/test_nets.py priors
medrecon.priors.tweedie.gamma                              3  priors/test_tweedie.py
medrecon.priors.tweedie.gaussian                           3  priors/test_tweedie.py
medrecon.priors.tweedie.poisson                            3  priors/test_tweedie.py
medrecon.problems.base.Fit.unexplained                     3  problems/test_maps.py
medrecon.problems.calibration.calibration_block            3  problems/test_noncartesian.py
medrecon.problems.cartesian.Cartesian._noise_warnings      3  data/test_noise.py
medrecon.problems.cartesian.Cartesian.review               3  problems/test_maps.py
medrecon.problems.coil_images.CoilImages.to_image          3  problems/test_coil_images.py
medrecon.problems.dynamic.Dynamic.likelihood               3  problems/test_dynamic.py
medrecon.problems.images.Images.likelihood                 3  problems/test_images.py
medrecon.problems.images.Images.to_image                   3  problems/test_images.py
medrecon.problems.images.finer_geometry                    3  problems/test_images.py
medrecon.problems.joint_maps.EstimatedMaps._started        3  problems/test_joint_maps.py
medrecon.problems.joint_maps.EstimatedMaps.suited_to       3  problems/test_joint_maps.py
medrecon.problems.maps.CoilProblem.check_source            3  formats/test_mapped.py
medrecon.problems.maps.CoilProblem.facts                   3  problems/test_maps.py
medrecon.problems.motion.MovingCartesian._calibration_warnings 3  problems/test_motion.py
medrecon.problems.motion.MovingCartesian.review            3  problems/test_motion.py
medrecon.problems.motion.MovingShots._step                 3  problems/test_motion.py
medrecon.problems.motion.MovingShots.updated               3  problems/test_motion.py
medrecon.problems.motion.relative_poses                    3  problems/test_motion.py
medrecon.problems.motion.smooth_map_phase                  3  problems/test_motion.py
medrecon.problems.noncartesian.NonCartesian._transform     3  problems/test_noncartesian.py
medrecon.problems.noncartesian.NonCartesian.acceleration   3  test_quality.py
medrecon.problems.noncartesian.NonCartesian.likelihood     3  problems/test_noncartesian.py
medrecon.problems.stack.Stack._weights                     3  test_slabs.py
medrecon.problems.stack.Stack.likelihood                   3  problems/test_stack.py
medrecon.problems.stack.Stack.own                          3  test_slabs.py
medrecon.problems.stack.Stack.to_image                     2  problems/test_stack.py
medrecon.problems.stack._units_of_volume                   3  problems/test_stack.py
medrecon.problems.thick.ThickSlices.likelihood             3  problems/test_thick.py
medrecon.problems.tomography.Tomography.likelihood         3  problems/test_tomography.py
medrecon.problems.tomography.Tomography.to_image           3  problems/test_tomography.py
medrecon.problems.tomography._projector                    3  problems/test_tomography.py
medrecon.quality.choose_row                                3  test_quality.py
medrecon.quality.overridden                                3  test_quality.py
medrecon.reconstruction._calibration                       3  cli/test_calibrate.py
medrecon.record.particle_warnings                          3  test_posterior.py
medrecon.record.record                                     3  solvers/test_calibration.py
medrecon.report.baselines._log_magnitude                   3  report/test_gather.py
medrecon.report.command._words                             3  report/test_command.py
medrecon.report.gather.reference_of                        2  report/test_gather.py
medrecon.report.images.faded                               2  report/test_page.py
medrecon.report.images.grey                                3  report/test_page.py
medrecon.report.index._middle                              3  report/test_index.py
medrecon.report.index._number                              2  report/test_index.py
medrecon.report.index.row_of                               3  report/test_index.py
medrecon.report.orientation._letters                       3  report/test_orientation.py
medrecon.report.orientation.edges                          3  report/test_orientation.py
medrecon.report.sections.motion                            3  report/test_page.py
medrecon.report.viewer._is_oriented                        2  report/test_viewer.py
medrecon.report.viewer._nifti                              3  report/test_viewer.py
medrecon.report.viewer._pooled                             3  report/test_viewer.py
medrecon.report.viewer._pooled_affine                      2  report/test_viewer.py
medrecon.report.viewer.quantised                           3  report/test_viewer.py
medrecon.sample._checked                                   3  solvers/test_solvers.py
medrecon.sample._descend                                   3  test_sample.py solvers
medrecon.slabs._slabs                                      3  test_slabs.py
medrecon.slabs.cut                                         3  test_slabs.py
medrecon.solvers.admm.z_step                               all  solvers/test_admm.py
medrecon.solvers.base.annealed                             3  solvers/test_ald.py solvers
medrecon.solvers.base.data_weight                          3  solvers/test_base.py solvers
medrecon.solvers.base.limit_step                           3  solvers/test_base.py solvers
medrecon.solvers.base.renoise                              3  solvers/test_base.py solvers
medrecon.solvers.base.residual_norm_and_grad               3  solvers/test_base.py solvers
medrecon.solvers.base.variance_kept                        3  solvers/test_base.py solvers
medrecon.solvers.blinddps.BlindDPS._parameters              3  solvers/test_blinddps.py
medrecon.solvers.blinddps.BlindDPS.step                     3  solvers/test_blinddps.py solvers
medrecon.solvers.blinddps.gradients                         3  solvers/test_blinddps.py
medrecon.solvers.ccdf._steps                               3  solvers/test_ccdf.py
medrecon.solvers.ccdf.contraction_bound                    all  solvers/test_ccdf.py
medrecon.solvers.ccdf.start_level                          3  solvers/test_ccdf.py
medrecon.solvers.ccdf.uniform_bound                        3  solvers/test_ccdf.py
medrecon.solvers.classical.L1Wavelet.estimate              3  solvers/test_classical.py solvers
medrecon.solvers.classical.LowRank.estimate                3  solvers/test_classical.py solvers
medrecon.solvers.classical._clip                           3  solvers/test_classical.py solvers
medrecon.solvers.classical._weight                         3  solvers/test_classical.py solvers
medrecon.solvers.daps.DAPSLangevin.draw                    3  solvers/test_counts.py solvers
medrecon.solvers.ddim.DDIM.step                            3  solvers
medrecon.solvers.ddnm.DDNMPlus.step                        3  solvers/test_ddnm.py solvers
medrecon.solvers.ddrm.DDRM.eta                             3  solvers/test_noising.py solvers
medrecon.solvers.ddrm.DDRM.step                            3  solvers/test_ddrm.py solvers/test_noising.py solvers
medrecon.solvers.dds.DDS.step                              3  solvers/test_dds.py solvers
medrecon.solvers.ddsmc.DDSMC.look                          3  solvers/test_ddsmc.py solvers/test_smc.py
medrecon.solvers.ddsmc.DDSMC.move                          3  solvers/test_ddsmc.py solvers/test_smc.py
medrecon.solvers.dps.DPS.step                              3  solvers/test_solvers.py solvers
medrecon.solvers.dsg.DSG.step                              3  solvers/test_mixture.py solvers
medrecon.solvers.fps.FPS.path_density                      3  solvers/test_fps.py solvers/test_mcgdiff.py solvers/test_smc.py
medrecon.solvers.fps._kept                                 3  solvers/test_fps.py solvers/test_smc.py
medrecon.solvers.gibbsddrm.GibbsDDRM._langevin              3  solvers/test_gibbsddrm.py
medrecon.solvers.gibbsddrm.periodic                         3  solvers/test_gibbsddrm.py
medrecon.solvers.ilvr.ILVR.step                            3  solvers/test_noising.py solvers
medrecon.solvers.lgd.LGD.step                              3  solvers/test_solvers.py solvers
medrecon.solvers.mbir.MBIR.step                            3  solvers/test_mbir.py
medrecon.solvers.mcg.MCG.step                              3  solvers/test_noising.py solvers/test_solvers.py solvers
medrecon.solvers.mcgdiff.BridgedSolver.init                3  solvers/test_mcgdiff.py solvers/test_smc.py
medrecon.solvers.mcgdiff.BridgedSolver.look                3  solvers/test_mcgdiff.py solvers/test_smc.py
medrecon.solvers.mcgdiff.BridgedSolver.move                3  solvers/test_mcgdiff.py solvers/test_smc.py
medrecon.solvers.mcgdiff.condition                         3  solvers/test_mcgdiff.py solvers/test_smc.py
medrecon.solvers.mgdm.MGDM.step                            3  solvers/test_mgdm.py solvers
medrecon.solvers.multistep.MultistepSolver.change          all  solvers/test_multistep.py
medrecon.solvers.pc.corrector                              3  solvers/test_pc.py solvers
medrecon.solvers.r2d2.R2D2.step                            3  solvers/test_r2d2.py solvers
medrecon.solvers.reddiff.REDDiff.step                      3  solvers/test_reddiff.py solvers
medrecon.solvers.repaint.RePaint.step                      3  solvers/test_noising.py solvers
medrecon.solvers.scoremri.ScoreMRI.step                    3  solvers/test_scoremri.py solvers
medrecon.solvers.scoreprior.LowRankGaussian.log_prob       3  solvers/test_scoreprior.py
medrecon.solvers.scoreprior.RealNVP.__init__               3  solvers/test_scoreprior.py
medrecon.solvers.scoreprior.ScorePrior.fit                 3  solvers/test_scoreprior.py
medrecon.solvers.scoreprior._Coupling.inverse              all  solvers/test_scoreprior.py
medrecon.solvers.sitcom.SITCOM.step                        3  solvers/test_sitcom.py solvers/test_solvers.py solvers
medrecon.solvers.smc.ParticleSolver.particles              3  solvers/test_smc.py
medrecon.solvers.smc.ParticleSolver.step                   3  solvers/test_smc.py
medrecon.solvers.smc.log_likelihood                        3  solvers/test_smc.py
medrecon.solvers.smc.log_normal                            3  solvers/test_smc.py
medrecon.solvers.smc.systematic                            3  solvers/test_smc.py
medrecon.solvers.smc.tempered                              3  solvers/test_smc.py
medrecon.solvers.tds.TDS.look                              3  solvers/test_tds.py solvers/test_smc.py
medrecon.solvers.tds.TDS.move                              3  solvers/test_tds.py solvers/test_smc.py
medrecon.solvers.theory.jensen_gap_bound                   3  solvers/test_theory.py
medrecon.solvers.theory.noise_norm                         3  solvers/test_theory.py
medrecon.solvers.theory.outside_range                      3  solvers/test_theory.py
medrecon.solvers.tmpd.TMPD.calibrated                      3  solvers/test_calibration.py solvers
medrecon.solvers.tomography.SIRT.estimate                  3  solvers/test_tomography.py solvers
medrecon.solvers.tweedie.Tweedie.check                     3  solvers/test_tweedie.py
medrecon.solvers.tweedie.Tweedie.step                      3  solvers/test_tweedie.py
medrecon.torchscript.Denoiser.forward                      3  test_zoo.py
medrecon.training.augment.anatomical_phase                 3  training/test_augment.py
medrecon.training.augment.demodulate                       3  training/test_augment.py
medrecon.training.augment.random_field                     3  training/test_augment.py
medrecon.training.batches.ShapeBatches.__iter__            3  training/test_batches.py
medrecon.training.batches.groups_by_shape                  3  training/test_batches.py
medrecon.training.corruption.GammaNoise.denoise            3  training/test_corruption.py
medrecon.training.corruption.PoissonNoise.denoise          3  training/test_corruption.py
medrecon.training.corruption.least_variation               3  training/test_corruption.py
medrecon.training.corruption.nominal_levels                3  training/test_corruption.py
medrecon.training.denoising.Noise2Score.loss               3  training/test_denoising.py
medrecon.training.denoising.Noise2Self.blind_spot          3  training/test_denoising.py
medrecon.training.denoising.Noise2Self.loss                3  training/test_denoising.py
medrecon.training.denoising.SURELoss.loss                  3  training/test_denoising.py
medrecon.training.denoising.donut                          3  training/test_denoising.py
medrecon.training.denoising.with_own_pixel                 3  training/test_denoising.py
medrecon.training.noisy.ScaledCrops.__call__               3  training/test_noisy.py
medrecon.training.noisy.noise_range                        3  training/test_noisy.py
medrecon.training.noisy.noisy_rows                         3  training/test_noisy.py
medrecon.training.objectives.DDPM.pair                     3  training/test_objectives.py
medrecon.training.objectives.EDM.pair                      3  training/test_objectives.py
medrecon.training.objectives.RectifiedFlow.pair            3  training/test_objectives.py
medrecon.training.score_matching.denoising_loss            3  training/test_score_matching.py
medrecon.training.score_matching.divergence                3  training/test_score_matching.py
medrecon.training.score_matching.implicit_loss             3  training/test_score_matching.py
medrecon.training.score_matching.sliced_loss               3  training/test_score_matching.py
medrecon.training.score_matching.sure                      3  training/test_score_matching.py
medrecon.training.undersampled.Ambient.loss_at             3  training/test_undersampled.py
medrecon.training.undersampled.Ambient.masks               3  training/test_undersampled.py
medrecon.training.undersampled.Ambient.prior               3  training/test_undersampled.py
medrecon.training.undersampled.GSURE._divergence           3  training/test_undersampled.py
medrecon.training.undersampled.GSURE.loss_at               3  training/test_undersampled.py
medrecon.training.undersampled.SSDU.loss_at                3  training/test_undersampled.py
medrecon.training.undersampled.Unrolled.__call__           3  training/test_undersampled.py
medrecon.training.undersampled._unseen_weights             3  training/test_undersampled.py
medrecon.training.undersampled.keep_lines                  3  training/test_undersampled.py
medrecon.training.undersampled.sampling_density            3  training/test_undersampled.py
medrecon.transforms.coils.cropped_like                     3  transforms/test_simulate.py
medrecon.transforms.measure.NoisyImaged.measure            3  test_zoo.py
medrecon.transforms.measure.SinogramOfImaged.measure       3  test_zoo.py
medrecon.transforms.measure._coarse_geometry               3  test_zoo.py
medrecon.uncertainty.calibrated_maps                       3  cli/test_calibrate.py
medrecon.volumes._mrd_affine                               3  cli/test_evaluate.py
medrecon.volumes._volume                                   3  cli/test_evaluate.py
medrecon.volumes.check_pair                                3  cli/test_evaluate.py
medrecon.volumes.load_volume                               3  cli/test_evaluate.py
medrecon.weights._tensors                                  3  test_prior_file.py
medrecon.workers.Pool._read_answer                         3  prep/test_jobs.py
medrecon.workers.Pool._ready                               3  prep/test_jobs.py
medrecon.workers.Pool.run                                  3  prep/test_jobs.py
medrecon.workers._START                                    3  prep/test_jobs.py
medrecon.workers.serve                                     3  prep/test_jobs.py
medrecon.workflows.Scoring.metrics                         3  test_zoo.py
medrecon.workflows.cases                                   3  test_zoo.py
medrecon.writers.dicom.common.Axes.of                      3  formats/test_dicom.py writers/test_writers.py
medrecon.writers.dicom.common.Axes.position                3  formats/test_dicom.py
medrecon.writers.dicom.common._add_mr                      3  writers/test_like.py
medrecon.writers.dicom.common._add_series                  3  writers/test_like.py
medrecon.writers.dicom.common._is_valid                    3  writers/test_like.py
medrecon.writers.dicom.identity.declare_deidentified       3  writers/test_like.py
medrecon.writers.dicom.identity.deidentified               3  formats/test_dicom.py
medrecon.writers.dicom.maps._segmentation                  3  writers/test_maps.py
medrecon.writers.dicom.maps.dicom_map                      3  writers/test_like.py writers/test_maps.py
medrecon.writers.dicom.series._nearest                     3  writers/test_like.py
medrecon.writers.dicom.series.derived_series               3  formats/test_dicom.py
medrecon.writers.earlier._names                            3  data/test_files.py
medrecon.writers.earlier.earlier_files                     3  data/test_files.py
medrecon.writers.earlier.is_finished                       3  cli/test_several.py
medrecon.writers.earlier.other_sidecar                     3  data/test_files.py
medrecon.writers.h5.Hdf5.contents                          3  writers/test_maps.py
medrecon.writers.mrd._image                                3  formats/test_nifti.py
medrecon.writers.mrd.mrd_bytes                             3  writers/test_maps.py
medrecon.writers.nifti.Nifti.contents                      3  writers/test_maps.py
medrecon.writers.nifti.nifti_bytes                         3  formats/test_nifti.py writers/test_maps.py
medrecon.writers.output._check_geometry                    3  writers/test_writers.py
medrecon.writers.output._check_inputs                      3  writers/test_writers.py
medrecon.writers.output._maps_entry                        3  writers/test_maps.py
medrecon.writers.output.write                              3  data/test_files.py writers/test_writers.py
medrecon.writers.place.output_geometry                     3  writers/test_writers.py
medrecon.writers.png.Png.contents                          3  writers/test_maps.py
"""  # noqa: E501

# Mutants that cannot be seen, since they compute the same: function, mutant (as printed), reason.
EQUIVALENT = [
    (
        "medrecon.data.masks.sigpy_mri",
        "atexit.register(shutil.rmtree, folder, ignore_errors=True) -> atexit.register(shutil.rmtree, folder)",
        "differs only if the temporary folder cannot be removed when Python exits",
    ),
    (
        "medrecon.solvers.scoreprior.LowRankGaussian.log_prob",
        "law = LowRankMultivariateNormal(self.mean, self.root, (2 * self.log_diagonal).exp(), validate_args=False) -> "
        "law = LowRankMultivariateNormal(self.mean, self.root, (2 * self.log_diagonal).exp())",
        "differs only in the message for NaN",
    ),
    (
        "medrecon.training.denoising.Noise2Self.blind_spot",
        "replaced, out = donut(y), torch.zeros_like(y) -> replaced, out = donut(y), (y)",
        "every pixel is overwritten",
    ),
    (
        "medrecon.solvers.scoreprior.LowRankGaussian.log_prob",
        "law: Distribution = Independent(Normal(self.mean, self.log_diagonal.exp(), validate_args=False), 1) -> "
        "law: Distribution = Independent(Normal(self.mean, self.log_diagonal.exp()), 1)",
        "differs only in the message for NaN",
    ),
    (
        "medrecon.solvers.scoreprior.RealNVP.__init__",
        "half = checker if k % 4 == 0 else torch.randperm(n, generator=generator) % 2 == 0 -> "
        "half = checker if k % 4 == 0 else torch.randperm(n, generator=generator) % 2 != 0",
        "the other half comes first",
    ),
]
